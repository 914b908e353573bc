"""What others published beside what we measured: ``reports/published/``.

``data`` reads the published figures, ``match`` finds the records that may stand beside them,
``page`` prints both, ``explain`` says where a cell comes from.
"""
