"""Answers computed from model values: drift, upgrade, explain, export diff, reproduction. Pure."""
