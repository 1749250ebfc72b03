"""VeilNet Guardian: admits nodes, grants teams, never carries a packet."""
