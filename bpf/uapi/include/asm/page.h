/* Empty on purpose: bcc's helpers include it, an XDP program needs nothing of it. */
