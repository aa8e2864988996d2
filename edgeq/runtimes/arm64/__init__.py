"""arm64 on this machine: natively where it is one, else under an emulator with a Python and runtimes of its own."""
