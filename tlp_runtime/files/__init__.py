"""Files that are whole or absent: atomic writes, hashes, gzip."""
