"""What an event store is. Imports the standard library and msgspec only."""
