"""The one exception that stands for a user's mistake rather than a defect of qsd."""


class QsdError(ValueError):
    """A one-line message that names what is wrong and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
