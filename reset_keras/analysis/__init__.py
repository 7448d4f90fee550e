"""What came out of a run: its table, its report and the paper's figures of its routes."""

from reset_keras.analysis.report import write_report
from reset_keras.analysis.route_figures import write_route_figures
from reset_keras.analysis.table import print_table

__all__ = ["print_table", "write_report", "write_route_figures"]
