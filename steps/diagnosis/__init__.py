"""Pictures of what a pretraining learnt, drawn from its artifact."""
