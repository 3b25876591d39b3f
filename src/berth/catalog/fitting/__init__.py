"""Which versions fit a machine? Their needs as rows, and the query over them (mission H1)."""
