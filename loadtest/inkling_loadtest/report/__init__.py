"""The report: assembled, drawn, written and compared."""
