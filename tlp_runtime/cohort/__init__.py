"""Many cases: from a table, a folder or a BIDS dataset, through one model, into one folder."""
