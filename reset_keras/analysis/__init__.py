"""What came out of a training: routes and what they mean, the paper's figures of them, a run's table and report."""

from reset_keras.analysis.report import write_report
from reset_keras.analysis.route_controls import Along, RouteControls, route_controls
from reset_keras.analysis.route_figures import write_route_figures
from reset_keras.analysis.route_meaning import (
    Controlled,
    RouteMeaning,
    mutual_information,
    random_controllers,
    route_meaning,
)
from reset_keras.analysis.routes import Routes, collect_routes
from reset_keras.analysis.sequentialness import Sequentialness, sequentialness
from reset_keras.analysis.similar_routes import SimilarRoutes, similar_routes
from reset_keras.analysis.table import print_table

__all__ = [
    "Along",
    "Controlled",
    "RouteControls",
    "RouteMeaning",
    "Routes",
    "Sequentialness",
    "SimilarRoutes",
    "collect_routes",
    "mutual_information",
    "print_table",
    "random_controllers",
    "route_controls",
    "route_meaning",
    "sequentialness",
    "similar_routes",
    "write_report",
    "write_route_figures",
]
