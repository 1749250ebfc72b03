/* Stands in for wintun.dll and iphlpapi.dll, compiled against their real headers.
 *
 * What one adapter sends, the other one of its process receives. Of the driver it has what matters
 * to a user: rings that fill up, an auto-reset event, and a session that ends over a packet that is
 * none. Of Windows: names, addresses and routes that go with their adapter.
 */
#include "wintun.h"
#include <iphlpapi.h>
#include <netioapi.h>
#include <stdio.h>
#include <stdlib.h>
#include <wchar.h>

#define EXPORT __declspec(dllexport)
#define MAX_ROWS 64

/* Each function has the type that its header gives it. */
EXPORT WINTUN_CREATE_ADAPTER_FUNC WintunCreateAdapter;
EXPORT WINTUN_CLOSE_ADAPTER_FUNC WintunCloseAdapter;
EXPORT WINTUN_GET_ADAPTER_LUID_FUNC WintunGetAdapterLUID;
EXPORT WINTUN_GET_RUNNING_DRIVER_VERSION_FUNC WintunGetRunningDriverVersion;
EXPORT WINTUN_START_SESSION_FUNC WintunStartSession;
EXPORT WINTUN_END_SESSION_FUNC WintunEndSession;
EXPORT WINTUN_GET_READ_WAIT_EVENT_FUNC WintunGetReadWaitEvent;
EXPORT WINTUN_RECEIVE_PACKET_FUNC WintunReceivePacket;
EXPORT WINTUN_RELEASE_RECEIVE_PACKET_FUNC WintunReleaseReceivePacket;
EXPORT WINTUN_ALLOCATE_SEND_PACKET_FUNC WintunAllocateSendPacket;
EXPORT WINTUN_SEND_PACKET_FUNC WintunSendPacket;

typedef struct packet {
    struct packet *next;
    DWORD size;
    BYTE data[];
} packet;

struct _TUN_SESSION {
    DWORD capacity, used; /* bytes of the ring towards the user */
    BOOL terminated;      /* the adapter is going */
    BOOL broken;          /* the driver stopped reading */
    HANDLE event;
    packet *first, **last; /* towards the user */
    packet *given, *taken; /* allocated to be sent; received and not released */
};

struct _WINTUN_ADAPTER {
    WCHAR name[128];
    GUID guid;
    NET_LUID luid;
    struct _TUN_SESSION *session;
};

static struct _WINTUN_ADAPTER *adapters[2];
static ULONG64 next_luid = 0x35000000000000;
static MIB_UNICASTIPADDRESS_ROW addresses[MAX_ROWS];
static MIB_IPFORWARD_ROW2 routes[MAX_ROWS];
static MIB_IPINTERFACE_ROW interfaces[MAX_ROWS];
static ULONG address_count, route_count, interface_count;
static DWORD refusal; /* what WintunCreateAdapter and CreateIpForwardEntry2 fail with */
static int late;      /* how many calls of GetIpInterfaceEntry find nothing yet */
static int tentative; /* how many looks find an address still tentative */
static NL_DAD_STATE final_state = IpDadStatePreferred;
static DWORD refused_route;

WINTUN_ADAPTER_HANDLE WINAPI WintunCreateAdapter(LPCWSTR name, LPCWSTR type, const GUID *guid)
{
    if (refusal) {
        SetLastError(refusal);
        return NULL;
    }
    if (wcscmp(type, L"VeilNet") || !guid)
        abort();
    for (int i = 0; i < 2; i++)
        if (!adapters[i]) {
            adapters[i] = calloc(1, sizeof **adapters);
            wcsncpy(adapters[i]->name, name, 127);
            adapters[i]->guid = *guid;
            adapters[i]->luid.Value = next_luid++;
            return adapters[i];
        }
    SetLastError(ERROR_NO_MORE_ITEMS);
    return NULL;
}

static void forget(NET_LUID luid)
{
    ULONG kept = 0;
    for (ULONG i = 0; i < address_count; i++)
        if (addresses[i].InterfaceLuid.Value != luid.Value)
            addresses[kept++] = addresses[i];
    address_count = kept, kept = 0;
    for (ULONG i = 0; i < route_count; i++)
        if (routes[i].InterfaceLuid.Value != luid.Value)
            routes[kept++] = routes[i];
    route_count = kept, kept = 0;
    for (ULONG i = 0; i < interface_count; i++)
        if (interfaces[i].InterfaceLuid.Value != luid.Value)
            interfaces[kept++] = interfaces[i];
    interface_count = kept;
}

void WINAPI WintunCloseAdapter(WINTUN_ADAPTER_HANDLE adapter)
{
    if (adapter->session)
        abort(); /* the session has to be ended first */
    forget(adapter->luid);
    for (int i = 0; i < 2; i++)
        if (adapters[i] == adapter)
            adapters[i] = NULL;
    free(adapter);
}

void WINAPI WintunGetAdapterLUID(WINTUN_ADAPTER_HANDLE adapter, NET_LUID *luid)
{
    *luid = adapter->luid;
}

DWORD WINAPI WintunGetRunningDriverVersion(void)
{
    return 0x0000000e; /* 0.14 */
}

WINTUN_SESSION_HANDLE WINAPI WintunStartSession(WINTUN_ADAPTER_HANDLE adapter, DWORD capacity)
{
    if (capacity < WINTUN_MIN_RING_CAPACITY || capacity > WINTUN_MAX_RING_CAPACITY ||
        capacity & (capacity - 1) || adapter->session)
        abort();
    struct _TUN_SESSION *session = calloc(1, sizeof *session);
    session->capacity = capacity;
    session->event = CreateEventW(NULL, FALSE, FALSE, NULL);
    session->last = &session->first;
    adapter->session = session;
    return session;
}

static void empty(packet *first)
{
    while (first) {
        packet *next = first->next;
        free(first);
        first = next;
    }
}

void WINAPI WintunEndSession(WINTUN_SESSION_HANDLE session)
{
    for (int i = 0; i < 2; i++)
        if (adapters[i] && adapters[i]->session == session)
            adapters[i]->session = NULL;
    SetEvent(session->event);
    CloseHandle(session->event);
    empty(session->first), empty(session->given), empty(session->taken);
    memset(session, 0xdd, sizeof *session);
    free(session);
}

HANDLE WINAPI WintunGetReadWaitEvent(WINTUN_SESSION_HANDLE session)
{
    return session->event;
}

BYTE *WINAPI WintunReceivePacket(WINTUN_SESSION_HANDLE session, DWORD *size)
{
    packet *first = session->first;
    if (!first) {
        SetLastError(session->terminated ? ERROR_HANDLE_EOF : ERROR_NO_MORE_ITEMS);
        return NULL;
    }
    if (session->taken)
        abort(); /* one at a time: who keeps more has forgotten to release */
    if (!(session->first = first->next))
        session->last = &session->first;
    first->next = NULL;
    session->taken = first;
    *size = first->size;
    return first->data;
}

void WINAPI WintunReleaseReceivePacket(WINTUN_SESSION_HANDLE session, const BYTE *data)
{
    packet *taken = session->taken;
    if (!taken || taken->data != data)
        abort();
    session->used -= taken->size;
    session->taken = NULL;
    memset(taken->data, 0xdd, taken->size);
    free(taken);
}

static struct _TUN_SESSION *peer(WINTUN_SESSION_HANDLE session)
{
    for (int i = 0; i < 2; i++)
        if (adapters[i] && adapters[i]->session && adapters[i]->session != session)
            return adapters[i]->session;
    return NULL;
}

BYTE *WINAPI WintunAllocateSendPacket(WINTUN_SESSION_HANDLE session, DWORD size)
{
    struct _TUN_SESSION *there = peer(session);
    if (session->terminated || session->broken) {
        SetLastError(ERROR_HANDLE_EOF);
        return NULL;
    }
    if (there && there->used + size > there->capacity) {
        SetLastError(ERROR_BUFFER_OVERFLOW);
        return NULL;
    }
    if (session->given)
        abort(); /* one at a time: who keeps more has forgotten to send */
    session->given = malloc(sizeof(packet) + size);
    session->given->next = NULL;
    session->given->size = size;
    return session->given->data;
}

void WINAPI WintunSendPacket(WINTUN_SESSION_HANDLE session, const BYTE *data)
{
    packet *given = session->given;
    struct _TUN_SESSION *there = peer(session);
    if (!given || given->data != data)
        abort();
    session->given = NULL;
    int version = given->size ? given->data[0] >> 4 : 0;
    if (!(version == 4 && given->size >= 20) && !(version == 6 && given->size >= 40))
        session->broken = TRUE;
    if (session->broken || !there) {
        free(given);
        return;
    }
    *there->last = given;
    there->last = &given->next;
    there->used += given->size;
    SetEvent(there->event);
}

/* iphlpapi */

#undef NETIOAPI_API
#define API EXPORT NETIO_STATUS WINAPI

API ConvertInterfaceAliasToLuid(const WCHAR *alias, PNET_LUID luid)
{
    for (int i = 0; i < 2; i++)
        if (adapters[i] && !_wcsicmp(adapters[i]->name, alias)) {
            *luid = adapters[i]->luid;
            return NO_ERROR;
        }
    return ERROR_INVALID_PARAMETER;
}

API ConvertInterfaceLuidToAlias(const NET_LUID *luid, PWSTR alias, SIZE_T length)
{
    if (length < NDIS_IF_MAX_STRING_SIZE + 1)
        return ERROR_NOT_ENOUGH_MEMORY;
    if (luid->Value == 1) {
        wcscpy(alias, L"Ethernet");
        return NO_ERROR;
    }
    for (int i = 0; i < 2; i++)
        if (adapters[i] && adapters[i]->luid.Value == luid->Value) {
            wcscpy(alias, adapters[i]->name);
            return NO_ERROR;
        }
    return ERROR_INVALID_PARAMETER;
}

static int tables; /* given and not freed */

API GetUnicastIpAddressTable(ADDRESS_FAMILY family, PMIB_UNICASTIPADDRESS_TABLE *table)
{
    if (family != AF_UNSPEC)
        abort();
    *table = malloc(sizeof **table + sizeof addresses);
    (*table)->NumEntries = address_count;
    memcpy((*table)->Table, addresses, sizeof addresses);
    tables++;
    return NO_ERROR;
}

API GetIpForwardTable2(ADDRESS_FAMILY family, PMIB_IPFORWARD_TABLE2 *table)
{
    if (family != AF_UNSPEC)
        abort();
    *table = malloc(sizeof **table + sizeof routes);
    (*table)->NumEntries = route_count;
    memcpy((*table)->Table, routes, sizeof routes);
    tables++;
    return NO_ERROR;
}

EXPORT void WINAPI FreeMibTable(PVOID table)
{
    tables--;
    free(table);
}

static MIB_IPINTERFACE_ROW *interface_of(const MIB_IPINTERFACE_ROW *row)
{
    for (ULONG i = 0; i < interface_count; i++)
        if (interfaces[i].InterfaceLuid.Value == row->InterfaceLuid.Value &&
            interfaces[i].Family == row->Family)
            return &interfaces[i];
    return NULL;
}

API GetIpInterfaceEntry(PMIB_IPINTERFACE_ROW row)
{
    MIB_IPINTERFACE_ROW *found = interface_of(row);
    if (late > 0) {
        late--;
        return ERROR_NOT_FOUND;
    }
    if (!found) {
        found = &interfaces[interface_count++];
        *found = (MIB_IPINTERFACE_ROW){
            .Family = row->Family,
            .InterfaceLuid = row->InterfaceLuid,
            .SitePrefixLength = 64,
            .NlMtu = 65535,
            .DadTransmits = 1,
            .RouterDiscoveryBehavior = RouterDiscoveryEnabled,
            .ManagedAddressConfigurationSupported = TRUE,
            .OtherStatefulConfigurationSupported = TRUE,
            .UseAutomaticMetric = TRUE,
            .ReachableTime = 0x11223344,
        };
    }
    *row = *found;
    return NO_ERROR;
}

API SetIpInterfaceEntry(PMIB_IPINTERFACE_ROW row)
{
    MIB_IPINTERFACE_ROW *found = interface_of(row);
    if (!found)
        return ERROR_NOT_FOUND;
    if (row->Family == AF_INET && row->SitePrefixLength)
        return ERROR_INVALID_PARAMETER;
    if (row->ReachableTime != 0x11223344)
        abort(); /* what was not to be set came back as it was */
    *found = *row;
    return NO_ERROR;
}

EXPORT void WINAPI InitializeUnicastIpAddressEntry(PMIB_UNICASTIPADDRESS_ROW row)
{
    memset(row, 0, sizeof *row);
    row->PrefixOrigin = IpPrefixOriginUnchanged;
    row->SuffixOrigin = IpSuffixOriginUnchanged;
    row->OnLinkPrefixLength = 255;
    row->ValidLifetime = row->PreferredLifetime = 0xffffffff;
}

API CreateUnicastIpAddressEntry(const MIB_UNICASTIPADDRESS_ROW *row)
{
    if (row->ValidLifetime != 0xffffffff || row->OnLinkPrefixLength > 128)
        return ERROR_INVALID_PARAMETER;
    addresses[address_count] = *row;
    if (tentative)
        addresses[address_count].DadState = IpDadStateTentative;
    address_count++;
    return NO_ERROR;
}

API GetUnicastIpAddressEntry(PMIB_UNICASTIPADDRESS_ROW row)
{
    for (ULONG i = 0; i < address_count; i++)
        if (addresses[i].InterfaceLuid.Value == row->InterfaceLuid.Value &&
            !memcmp(&addresses[i].Address, &row->Address, sizeof row->Address)) {
            if (tentative > 0 && --tentative == 0)
                addresses[i].DadState = final_state;
            *row = addresses[i];
            return NO_ERROR;
        }
    return ERROR_NOT_FOUND;
}

EXPORT void WINAPI InitializeIpForwardEntry(PMIB_IPFORWARD_ROW2 row)
{
    memset(row, 0, sizeof *row);
    row->ValidLifetime = row->PreferredLifetime = row->Metric = 0xffffffff;
    row->Protocol = MIB_IPPROTO_NETMGMT;
}

API CreateIpForwardEntry2(const MIB_IPFORWARD_ROW2 *row)
{
    if (refused_route)
        return refused_route;
    if (row->Metric == 0xffffffff || row->NextHop.si_family != row->DestinationPrefix.Prefix.si_family)
        return ERROR_INVALID_PARAMETER;
    routes[route_count++] = *row;
    return NO_ERROR;
}

/* For the test */

EXPORT void StandinRefuse(DWORD error) { refusal = error; }
EXPORT void StandinRefuseRoutes(DWORD error) { refused_route = error; }
EXPORT void StandinBeLate(int calls) { late = calls; }
EXPORT void StandinBeTentative(int looks, int then) { tentative = looks, final_state = then; }

EXPORT void StandinTerminate(void)
{
    for (int i = 0; i < 2; i++)
        if (adapters[i] && adapters[i]->session) {
            adapters[i]->session->terminated = TRUE;
            SetEvent(adapters[i]->session->event);
        }
}

/* Somebody else's address and route, on "Ethernet". */
EXPORT void StandinTake(const BYTE *ipv4, BYTE length)
{
    MIB_UNICASTIPADDRESS_ROW *address = &addresses[address_count++];
    MIB_IPFORWARD_ROW2 *route = &routes[route_count++];
    memset(address, 0, sizeof *address), memset(route, 0, sizeof *route);
    address->InterfaceLuid.Value = route->InterfaceLuid.Value = 1;
    address->Address.si_family = route->DestinationPrefix.Prefix.si_family = AF_INET;
    memcpy(&address->Address.Ipv4.sin_addr, ipv4, 4);
    memcpy(&route->DestinationPrefix.Prefix.Ipv4.sin_addr, ipv4, 4);
    route->DestinationPrefix.PrefixLength = address->OnLinkPrefixLength = length;
}

EXPORT void StandinFree(void)
{
    NET_LUID ethernet = {.Value = 1};
    forget(ethernet);
}

static int hex(char *to, const void *bytes, int count)
{
    for (int i = 0; i < count; i++)
        sprintf(to + 2 * i, "%02x", ((const BYTE *)bytes)[i]);
    return 2 * count;
}

static int address_text(char *to, const SOCKADDR_INET *address)
{
    return address->si_family == AF_INET ? hex(to, &address->Ipv4.sin_addr, 4)
                                         : hex(to, &address->Ipv6.sin6_addr, 16);
}

/* All that is set, a line each, as C reads the structures; at most a few kB. */
EXPORT void StandinTell(char *to)
{
    to += sprintf(to, "tables %d\n", tables);
    for (int i = 0; i < 2; i++)
        if (adapters[i]) {
            to += sprintf(to, "adapter %ls ", adapters[i]->name);
            to += hex(to, &adapters[i]->guid, sizeof(GUID));
            to += sprintf(to, "\n");
        }
    for (ULONG i = 0; i < interface_count; i++)
        to += sprintf(to, "interface %d mtu %lu dad %lu discovery %d managed %d other %d\n",
                      interfaces[i].Family, interfaces[i].NlMtu, interfaces[i].DadTransmits,
                      interfaces[i].RouterDiscoveryBehavior,
                      interfaces[i].ManagedAddressConfigurationSupported,
                      interfaces[i].OtherStatefulConfigurationSupported);
    for (ULONG i = 0; i < address_count; i++) {
        to += sprintf(to, "address ");
        to += address_text(to, &addresses[i].Address);
        to += sprintf(to, "/%d\n", addresses[i].OnLinkPrefixLength);
    }
    for (ULONG i = 0; i < route_count; i++) {
        to += sprintf(to, "route ");
        to += address_text(to, &routes[i].DestinationPrefix.Prefix);
        to += sprintf(to, "/%d by ", routes[i].DestinationPrefix.PrefixLength);
        to += address_text(to, &routes[i].NextHop);
        to += sprintf(to, " metric %lu\n", routes[i].Metric);
    }
}
