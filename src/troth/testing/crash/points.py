"""All crash points, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from troth.testing.crash.client_points import CLIENT_POINTS
from troth.testing.crash.coordinator_points import COORDINATOR_POINTS
from troth.testing.crash.point import Point

POINTS: Mapping[str, Point] = MappingProxyType({point.name: point for point in (*COORDINATOR_POINTS, *CLIENT_POINTS)})
