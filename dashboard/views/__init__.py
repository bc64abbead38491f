"""One module per screen. Each reads through dashboard.source and draws what dashboard.figures computed."""
