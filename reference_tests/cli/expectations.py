"""What checks of the command line share: expectations that are counted, and how a check ends."""
import sys

failures = 0


def expect(ok, what):
    """Says what is wrong and goes on."""
    global failures
    if not ok:
        failures += 1
        print("FAILED:", what)


def finish(name):
    """The last line, and the exit code."""
    print(f"{name}: {failures} failures" if failures else f"{name}: all as expected")
    sys.exit(bool(failures))
