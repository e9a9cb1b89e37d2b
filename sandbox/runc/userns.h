/*
 * Opens a new user namespace with these mappings, which are what a uid_map and
 * a gid_map take. Nothing runs in it. Returns its descriptor, or a negative errno.
 */
int open_userns(const char *uids, const char *gids);
