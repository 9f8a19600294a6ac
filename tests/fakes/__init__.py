"""Stand-ins that implement the real interfaces; they assert what the real ones would."""
