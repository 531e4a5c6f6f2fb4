//! What every HTTP face needs: authentication, request ids, errors, limits.
