"""The append-only event log, its proofs and the lineage graph."""
