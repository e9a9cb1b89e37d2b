/* TransferCommand and NetworkCommand of options.go. */
#define TRANSFER_COMMAND "transfer"
#define NETWORK_COMMAND "network"
