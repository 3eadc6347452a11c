"""Feature views, point-in-time training sets and online features."""
