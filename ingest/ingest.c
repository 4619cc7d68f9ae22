/* The thread that reads sources and proposes batches. Being written. */
#include "ingest/ingest.h"
