"""The front door: mounts each room's commands, wires parts together, sequences the demo days, and is the doctor."""
