"""Questions answered from model values: drift, upgrade, explain, reproduction. Pure."""
