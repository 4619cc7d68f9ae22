/* Cluster.Ping: does nothing, and so measures the floor of the RPC layer. Apart from the rest of its service
 * because it needs no state: the core's tests and benchmark run with it alone. */
#include "api/service.h"

void dn_svc_ping(struct dn_call *call, const uint8_t *message, size_t length)
{
    Dunlin__V1__PingRequest *request =
        dn_call_unpack(call, &dunlin__v1__ping_request__descriptor, message, length);
    if (!request)
        return;
    Dunlin__V1__PingResponse response = DUNLIN__V1__PING_RESPONSE__INIT;
    response.payload = request->payload;
    dn_call_reply(call, &response.base);
}
