"""The page of a report: one self-contained HTML file from the files of runs, searches and experiments."""

from ttl_monai.reports.page.assemble import write_report

__all__ = ["write_report"]
