"""What an operator sees: logs, metrics, the status page; and the parts that several rooms share."""
