"""VeilNet Guardian: admits nodes and grants teams; never carries a packet."""
