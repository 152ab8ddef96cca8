# The appliance under Hyper-V. As an administrator:
#   .\hyperv.ps1 -Disk corbel.vhdx                  the second generation, by UEFI
#   .\hyperv.ps1 -Disk corbel.vhd -Generation 1     the first, by its BIOS
# What it is told is the file corbel.cfg on the disk. The console is the pipe \\.\pipe\NAME.
param(
    [Parameter(Mandatory = $true)] [string] $Disk,
    [ValidateSet(1, 2)] [int] $Generation = 2,
    [string] $Name = 'corbel',
    [string] $HostOnlySwitch = 'corbel-host',
    [string] $ServiceSwitch = 'corbel-service'
)
$ErrorActionPreference = 'Stop'

# An internal switch has nobody on it but this host and the appliance.
if (-not (Get-VMSwitch -Name $HostOnlySwitch -ErrorAction SilentlyContinue)) {
    New-VMSwitch -Name $HostOnlySwitch -SwitchType Internal | Out-Null
}
if (-not (Get-VMSwitch -Name $ServiceSwitch -ErrorAction SilentlyContinue)) {
    throw "There is no switch $ServiceSwitch. New-VMSwitch -Name $ServiceSwitch -NetAdapterName ... makes one."
}
$path = (Resolve-Path $Disk).Path
New-VM -Name $Name -Generation $Generation -MemoryStartupBytes 128MB -VHDPath $path -SwitchName $HostOnlySwitch | Out-Null
Set-VMMemory -VMName $Name -DynamicMemoryEnabled $false
Set-VMProcessor -VMName $Name -Count 1
# The first NIC is the one that New-VM made.
Get-VMNetworkAdapter -VMName $Name | Rename-VMNetworkAdapter -NewName 'host-only'
Add-VMNetworkAdapter -VMName $Name -Name 'service' -SwitchName $ServiceSwitch
Set-VMNetworkAdapter -VMName $Name -Name 'host-only' -StaticMacAddress '525400C0BE01'
Set-VMNetworkAdapter -VMName $Name -Name 'service' -StaticMacAddress '525400C0BE02'
Set-VMComPort -VMName $Name -Number 1 -Path "\\.\pipe\$Name"
if ($Generation -eq 2) {
    # It is not signed by Microsoft. An image signed by a provider's own key wants firmware that knows that key.
    $drive = Get-VMHardDiskDrive -VMName $Name
    Set-VMFirmware -VMName $Name -EnableSecureBoot Off -FirstBootDevice $drive
}
# Switched off by its power button, so that what it has acknowledged is flushed; never saved, because the storage goes on.
Set-VM -Name $Name -AutomaticStartAction Start -AutomaticStopAction ShutDown -AutomaticCheckpointsEnabled $false
Start-VM -Name $Name
