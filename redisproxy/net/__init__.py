"""The Twisted side of the data path: protocols that carry bytes between sockets and the pure core,
and the limits of time and rate.
"""
