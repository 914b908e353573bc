"""microsoft/unilm, beit2: encoder, quantiser and decoder side by side."""

from steps.models.official.naming import Naming

NAMING = Naming(
    (
        (r"^encode_task_layer\.", "tokenizer.task_layer."),
        (r"^decode_task_layer\.", "task_layer."),
        (r"^encoder\.", "tokenizer.encoder."),
        (r"^quantize\.embedding\.weight$", "tokenizer.codebook.codes"),
        (r"^quantize\.embedding\.initted$", "tokenizer.codebook.started"),
        (r"^quantize\.embedding\.cluster_size$", "tokenizer.codebook.start_sizes"),
        (r"^quantize\.cluster_size$", "tokenizer.codebook.cluster_size"),
    )
)
