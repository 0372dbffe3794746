"""report.html of a training run."""
