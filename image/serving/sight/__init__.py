"""What the server tells of itself: logs, metrics, what its processes hold."""
