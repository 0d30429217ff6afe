"""Log, metrics, and the HTTP face that shows the metrics."""
