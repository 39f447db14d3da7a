"""The one exception for a user's mistake."""


class UserError(Exception):
    """A mistake of the user's, told in one paragraph: what is wrong, where, and what to do.

    Command lines print the message without a traceback and exit with code 2.
    """
