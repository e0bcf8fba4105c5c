"""One recipe per task, each read from top to bottom, and the commands that run them."""
