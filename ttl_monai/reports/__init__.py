"""Figures and tables of a run and of a search: pure functions from records to files and text."""

from ttl_monai.reports.emboli import emboli_table
from ttl_monai.reports.features import plot_features
from ttl_monai.reports.figures import plot_roc_pr, plot_slice_scores, plot_training_curves
from ttl_monai.reports.heat import plot_heat
from ttl_monai.reports.localisation import plot_localisation, plot_maps, plot_randomised
from ttl_monai.reports.overlays import MaskPanel, plot_masks
from ttl_monai.reports.published import published_row, published_table
from ttl_monai.reports.search_docs import agreement, docs_section
from ttl_monai.reports.search_figure import plot_search
from ttl_monai.reports.search_tables import candidates_table, console_table, search_table
from ttl_monai.reports.similarity import plot_matrix, plot_similarity, similarity_csv, similarity_text
from ttl_monai.reports.tables import results_table, results_tables, update_section

__all__ = [
    "MaskPanel",
    "agreement",
    "candidates_table",
    "console_table",
    "docs_section",
    "emboli_table",
    "plot_features",
    "plot_heat",
    "plot_localisation",
    "plot_maps",
    "plot_masks",
    "plot_matrix",
    "plot_randomised",
    "plot_roc_pr",
    "plot_search",
    "plot_similarity",
    "plot_slice_scores",
    "plot_training_curves",
    "published_row",
    "published_table",
    "results_table",
    "results_tables",
    "search_table",
    "similarity_csv",
    "similarity_text",
    "update_section",
]
