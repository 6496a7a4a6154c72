"""Figures and tables of a run: pure functions from records to files and text."""

from ttl_monai.reports.figures import plot_roc_pr, plot_training_curves
from ttl_monai.reports.tables import results_table, update_section

__all__ = ["plot_roc_pr", "plot_training_curves", "results_table", "update_section"]
