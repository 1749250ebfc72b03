"""The only asyncio of the kernel: it gives the protocol its clock, sockets, threads and devices."""
