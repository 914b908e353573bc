"""What features see: the tasks decode and bias as tables, a figure and two sentences."""
