"""Using what was trained: the policy of a finished iteration writes outputs for new documents."""
