"""Growth of scores with scale: the runs of a study, their power laws, their section."""
