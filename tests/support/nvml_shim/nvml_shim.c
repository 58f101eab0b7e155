/* A libnvidia-ml.so.1 that answers from a scenario file, so that the real Python binding, its structures and
 * its error codes can be tested without a GPU.
 *
 * NVML_SHIM_SCENARIO names a file of one "SUBJECT KEY VALUE" per line, which scenario.py writes from a scenario
 * and nvmlInit reads anew; '#' starts a comment. SUBJECT is "system", "gpu*", "gpu3", "gpu3/mig0" or "gpu3/mig*". A later line overrides an earlier
 * one. VALUE is a number, text, or "!N" for the NVML error N. A key nobody gave answers
 * NVML_ERROR_NOT_SUPPORTED, as a driver does. NVLink keys are "nvlink*.KEY" or "nvlink4.KEY", for as many links
 * as "nvlinks" says.
 *
 * Built with -DOLD_DRIVER, the functions that drivers of the 470 series lack are left out of the library.
 */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINES 1024
#define MAX_GPUS 16
#define MAX_MIGS 8

typedef struct {
    char subject[32];
    char key[48];
    char value[160];
} Line;

struct nvmlDevice_st {
    int gpu;
    int mig; /* -1: the GPU itself */
};

static Line lines[MAX_LINES];
static int line_count;
static struct nvmlDevice_st devices[MAX_GPUS][MAX_MIGS + 1];

static void load_file(const char *path) {
    FILE *file = fopen(path, "r");
    char text[512];
    while (file && line_count < MAX_LINES && fgets(text, sizeof text, file)) {
        Line *line = &lines[line_count];
        if (text[0] != '#' &&
            sscanf(text, "%31s %47s %159[^\n]", line->subject, line->key, line->value) == 3) {
            line_count++;
        }
    }
    if (file) fclose(file);
}

static void load(void) {
    const char *names = getenv("NVML_SHIM_SCENARIO");
    line_count = 0;
    if (names) load_file(names);
}

static int matches(const char *subject, nvmlDevice_t device) {
    char exact[32], every[32];
    if (!device) return strcmp(subject, "system") == 0;
    if (device->mig < 0) {
        snprintf(exact, sizeof exact, "gpu%d", device->gpu);
        return strcmp(subject, exact) == 0 || strcmp(subject, "gpu*") == 0;
    }
    snprintf(exact, sizeof exact, "gpu%d/mig%d", device->gpu, device->mig);
    snprintf(every, sizeof every, "gpu%d/mig*", device->gpu);
    return strcmp(subject, exact) == 0 || strcmp(subject, every) == 0;
}

static nvmlReturn_t find(nvmlDevice_t device, const char **value, const char *key) {
    for (int i = line_count - 1; i >= 0; i--) {
        if (matches(lines[i].subject, device) && strcmp(lines[i].key, key) == 0) {
            *value = lines[i].value;
            return lines[i].value[0] == '!' ? (nvmlReturn_t)atoi(lines[i].value + 1) : NVML_SUCCESS;
        }
    }
    return NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t number(nvmlDevice_t device, unsigned long long *value, const char *format, ...) {
    char key[48];
    const char *text;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(key, sizeof key, format, arguments);
    va_end(arguments);
    nvmlReturn_t result = find(device, &text, key);
    if (result == NVML_SUCCESS) *value = strtoull(text, NULL, 0);
    return result;
}

static nvmlReturn_t text(nvmlDevice_t device, char *buffer, unsigned int length, const char *key) {
    const char *value;
    nvmlReturn_t result = find(device, &value, key);
    if (result == NVML_SUCCESS) snprintf(buffer, length, "%s", value);
    return result;
}

#define NUMBER(FUNCTION, TYPE, KEY)                                 \
    nvmlReturn_t FUNCTION(nvmlDevice_t device, TYPE *value) {       \
        unsigned long long found = 0;                               \
        nvmlReturn_t result = number(device, &found, KEY);          \
        if (result == NVML_SUCCESS) *value = (TYPE)found;           \
        return result;                                              \
    }

#define PAIR(FUNCTION, TYPE, FIRST, SECOND)                                     \
    nvmlReturn_t FUNCTION(nvmlDevice_t device, TYPE *first, TYPE *second) {     \
        unsigned long long one = 0, two = 0;                                    \
        nvmlReturn_t result = number(device, &one, FIRST);                      \
        if (result != NVML_SUCCESS) return result;                              \
        number(device, &two, SECOND);                                           \
        *first = (TYPE)one;                                                     \
        *second = (TYPE)two;                                                    \
        return NVML_SUCCESS;                                                    \
    }

static nvmlReturn_t link_number(nvmlDevice_t device, unsigned int link, unsigned long long *value,
                                const char *key) {
    unsigned long long links = 0;
    nvmlReturn_t result = number(device, &links, "nvlinks");
    if (result != NVML_SUCCESS) return result;
    if (link >= links) return NVML_ERROR_INVALID_ARGUMENT;
    result = number(device, value, "nvlink%u.%s", link, key);
    return result == NVML_ERROR_NOT_SUPPORTED ? number(device, value, "nvlink*.%s", key) : result;
}

#define LINK(FUNCTION, TYPE, KEY)                                                       \
    nvmlReturn_t FUNCTION(nvmlDevice_t device, unsigned int link, TYPE *value) {        \
        unsigned long long found = 0;                                                   \
        nvmlReturn_t result = link_number(device, link, &found, KEY);                   \
        if (result == NVML_SUCCESS) *value = (TYPE)found;                               \
        return result;                                                                  \
    }

/* ---- the library ---- */

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    const char *value;
    (void)flags;
    load();
    nvmlReturn_t result = find(NULL, &value, "init");
    return result == NVML_ERROR_NOT_SUPPORTED ? NVML_SUCCESS : result;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlInit(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlShutdown(void) { return NVML_SUCCESS; }
const char *nvmlErrorString(nvmlReturn_t result) { return result == NVML_SUCCESS ? "Success" : "Shim error"; }

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    return text(NULL, version, length, "driver");
}
nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    unsigned long long found = 0;
    nvmlReturn_t result = number(NULL, &found, "cuda");
    if (result == NVML_SUCCESS) *version = (int)found;
    return result;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    unsigned long long found = 0;
    nvmlReturn_t result = number(NULL, &found, "count");
    if (result == NVML_SUCCESS) *count = (unsigned int)found;
    return result;
}
nvmlReturn_t nvmlDeviceGetCount(unsigned int *count) { return nvmlDeviceGetCount_v2(count); }

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    unsigned int count = 0;
    unsigned long long ignored;
    nvmlDeviceGetCount_v2(&count);
    if (index >= count || index >= MAX_GPUS) return NVML_ERROR_INVALID_ARGUMENT;
    struct nvmlDevice_st *found = &devices[index][MAX_MIGS];
    found->gpu = (int)index;
    found->mig = -1;
    nvmlReturn_t result = number(found, &ignored, "handle");
    if (result != NVML_SUCCESS && result != NVML_ERROR_NOT_SUPPORTED) return result;
    *device = found;
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

/* ---- one device ---- */

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    return text(device, name, length, "name");
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    return text(device, uuid, length, "uuid");
}

/* As the driver does: version 1 counts the reserve as used. */
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    unsigned long long total = 0, reserved = 0, used = 0;
    nvmlReturn_t result = number(device, &total, "memory.total");
    if (result != NVML_SUCCESS) return result;
    number(device, &reserved, "memory.reserved");
    number(device, &used, "memory.used");
    memory->total = total;
    memory->used = reserved + used;
    memory->free = total - reserved - used;
    return NVML_SUCCESS;
}

PAIR(nvmlDeviceGetCudaComputeCapability, int, "compute_capability.major", "compute_capability.minor")
PAIR(nvmlDeviceGetEccMode, nvmlEnableState_t, "ecc", "ecc.pending")
NUMBER(nvmlDeviceGetVirtualizationMode, nvmlGpuVirtualizationMode_t, "virtualization_mode")
NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, "persistence")
NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t, "performance_state")
NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, "compute_mode")
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned int, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, "default_power_limit_mw")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, nvmlEnableState_t, "retired_pages_pending")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, "pcie.generation")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, "pcie.width")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, "pcie.max_generation")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, "pcie.max_width")

static void fill_pci_info(nvmlPciInfo_t *pci, unsigned long long bus) {
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned int)bus;
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus);
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus);
}
nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    unsigned long long bus = 0, id = 0, subsystem = 0;
    nvmlReturn_t result = number(device, &bus, "pci.bus");
    if (result != NVML_SUCCESS) return result;
    number(device, &id, "pci.device_id");
    number(device, &subsystem, "pci.subsystem_id");
    fill_pci_info(pci, bus);
    pci->pciDeviceId = (unsigned int)id;
    pci->pciSubSystemId = (unsigned int)subsystem;
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci) {
    return nvmlDeviceGetPciInfo_v3(device, pci);
}

LINK(nvmlDeviceGetNvLinkState, nvmlEnableState_t, "active")
LINK(nvmlDeviceGetNvLinkVersion, unsigned int, "version")
nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci) {
    unsigned long long bus = 0;
    nvmlReturn_t result = link_number(device, link, &bus, "remote_bus");
    if (result == NVML_SUCCESS) fill_pci_info(pci, bus);
    return result;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *correctable,
                                       unsigned int *uncorrectable, unsigned int *pending,
                                       unsigned int *failure) {
    const char *value;
    nvmlReturn_t result = find(device, &value, "remapped_rows");
    if (result != NVML_SUCCESS) return result;
    return sscanf(value, "%u %u %u %u", correctable, uncorrectable, pending, failure) == 4
               ? NVML_SUCCESS
               : NVML_ERROR_UNKNOWN;
}

PAIR(nvmlDeviceGetMigMode, unsigned int, "mig", "mig.pending")
NUMBER(nvmlDeviceGetMaxMigDeviceCount, unsigned int, "mig.slots")
NUMBER(nvmlDeviceGetGpuInstanceId, unsigned int, "gpu_instance")
NUMBER(nvmlDeviceGetComputeInstanceId, unsigned int, "compute_instance")
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index,
                                                 nvmlDevice_t *mig) {
    const char *value;
    if (index >= MAX_MIGS) return NVML_ERROR_NOT_FOUND;
    struct nvmlDevice_st *found = &devices[device->gpu][index];
    found->gpu = device->gpu;
    found->mig = (int)index;
    if (find(found, &value, "uuid") != NVML_SUCCESS) return NVML_ERROR_NOT_FOUND;
    *mig = found;
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    unsigned long long found = 0;
    nvmlReturn_t result = number(device, &found, "multiprocessors");
    memset(attributes, 0, sizeof *attributes);
    attributes->multiprocessorCount = (unsigned int)found;
    if (number(device, &found, "compute_slices") == NVML_SUCCESS) {
        attributes->gpuInstanceSliceCount = (unsigned int)found;
    }
    return result;
}

/* ---- health ---- */

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t error,
                                         nvmlEccCounterType_t counter, unsigned long long *count) {
    return number(device, count, "ecc_errors.%s_%s",
                  counter == NVML_VOLATILE_ECC ? "volatile" : "aggregate",
                  error == NVML_MEMORY_ERROR_TYPE_CORRECTED ? "corrected" : "uncorrected");
}

/* All retired pages under the first cause; the addresses are not looked at. */
nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, nvmlPageRetirementCause_t cause,
                                       unsigned int *count, unsigned long long *addresses) {
    unsigned long long pages = 0;
    nvmlReturn_t result = number(device, &pages, "retired_pages");
    if (result != NVML_SUCCESS) return result;
    if (cause != NVML_PAGE_RETIREMENT_CAUSE_MULTIPLE_SINGLE_BIT_ECC_ERRORS) pages = 0;
    unsigned int room = *count;
    *count = (unsigned int)pages;
    if (!addresses || room < pages) return pages ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
    for (unsigned int i = 0; i < pages; i++) addresses[i] = i;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor,
                                      unsigned int *degrees) {
    unsigned long long found = 0;
    (void)sensor;
    nvmlReturn_t result = number(device, &found, "temperature");
    if (result == NVML_SUCCESS) *degrees = (unsigned int)found;
    return result;
}
nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t threshold,
                                               unsigned int *degrees) {
    unsigned long long found = 0;
    if (threshold != NVML_TEMPERATURE_THRESHOLD_SLOWDOWN) return NVML_ERROR_NOT_SUPPORTED;
    nvmlReturn_t result = number(device, &found, "temperature.slowdown");
    if (result == NVML_SUCCESS) *degrees = (unsigned int)found;
    return result;
}

/* "inforom 0" is a sound table; the error to answer is given as "!14". */
nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device) {
    const char *value;
    return find(device, &value, "inforom");
}
nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, unsigned int length) {
    return text(device, version, length, "vbios");
}

static nvmlReturn_t running(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *processes) {
    unsigned long long found = 0;
    nvmlReturn_t result = number(device, &found, "processes");
    if (result != NVML_SUCCESS) return result;
    unsigned int room = *count;
    *count = (unsigned int)found;
    if (found && (!processes || room < found)) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < found; i++) {
        memset(&processes[i], 0, sizeof processes[i]);
        processes[i].pid = 1000 + i;
    }
    return NVML_SUCCESS;
}

#ifndef OLD_DRIVER
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *processes) {
    return running(device, count, processes);
}
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned int, "pcie.card_generation")

nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_t *margin) {
    unsigned long long found = 0;
    if (margin->version != nvmlMarginTemperature_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t result = number(device, &found, "temperature.margin");
    if (result == NVML_SUCCESS) margin->marginTemperature = (int)(long long)found;
    return result;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    unsigned long long total = 0, reserved = 0, used = 0;
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t result = number(device, &total, "memory.total");
    if (result != NVML_SUCCESS) return result;
    number(device, &reserved, "memory.reserved");
    number(device, &used, "memory.used");
    memory->total = total;
    memory->reserved = reserved;
    memory->used = used;
    memory->free = total - reserved - used;
    return NVML_SUCCESS;
}

NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "throttle")
NUMBER(nvmlDeviceGetNumaNodeId, unsigned int, "numa_node")
LINK(nvmlDeviceGetNvLinkRemoteDeviceType, nvmlIntNvLinkDeviceType_t, "remote_type")

nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfoV_t *info) {
    unsigned long long state = 0, status = 0, clique = 0, cluster = 0;
    if (info->version != nvmlGpuFabricInfo_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t result = number(device, &state, "fabric.state");
    if (result != NVML_SUCCESS) return result;
    number(device, &status, "fabric.status");
    number(device, &clique, "fabric.clique");
    number(device, &cluster, "fabric.cluster");
    info->state = (nvmlGpuFabricState_t)state;
    info->status = (nvmlReturn_t)status;
    info->cliqueId = (unsigned int)clique;
    memset(info->clusterUuid, (int)cluster, sizeof info->clusterUuid);
    return NVML_SUCCESS;
}
#else
nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count,
                                                     nvmlProcessInfo_t *processes) {
    return running(device, count, processes);
}
#endif
