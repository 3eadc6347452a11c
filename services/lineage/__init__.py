"""The event log under all of Lineal, and the lineage graph that it implies."""
