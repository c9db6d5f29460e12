"""The read side of the audit: queries, statistics, reports, digests, verification."""
