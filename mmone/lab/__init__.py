"""How fast networks are on the machines at hand: measured, kept in one file, compared and drawn."""
