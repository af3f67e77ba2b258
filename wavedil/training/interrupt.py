"""Ctrl-C while training: the step under way is finished first."""

import signal
import threading


class Interrupt:
    """Around a loop: the first Ctrl-C sets `asked`, the second interrupts at once.

    Only in the main thread, and only where nobody else handles Ctrl-C already.
    """

    def __enter__(self):
        self.asked = False
        main = threading.current_thread() is threading.main_thread()
        self._ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number, frame):
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_):
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
