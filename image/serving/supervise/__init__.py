"""The first process of the pod: it compares what is desired with what is there, and starts generations."""
