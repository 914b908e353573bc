"""How scores grow with scale: the runs of a study, power laws through them, their page."""
