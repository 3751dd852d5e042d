/* A disk that lies: every sync returns at once. Preloaded into the server, it is the control of power_cut.py. */

int fsync(int fd) {
    (void)fd;
    return 0;
}

int fdatasync(int fd) {
    (void)fd;
    return 0;
}

int sync_file_range(int fd, long offset, long bytes, unsigned flags) {
    (void)fd, (void)offset, (void)bytes, (void)flags;
    return 0;
}
