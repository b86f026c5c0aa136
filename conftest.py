"""What all tests need of the process they run in."""

import signal

# A shell that starts this in the background has it ignore Ctrl-C, and every process begun from here too: some tests send it to them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
