<#
.SYNOPSIS
Installs cmesh for the user who calls it, or brings an installation to another version.

.DESCRIPTION
The steps are those of install.sh, in its order: find Python or uv, check a wheel against
SHA256SUMS, make an environment of its own for it in %LOCALAPPDATA%\cmesh\versions, point
%LOCALAPPDATA%\cmesh\bin\cmesh.cmd at it, put that folder on the user's PATH, write
installed.json, register cmesh with the agents found. What fails is taken back.

This script has been parsed, and never run: see docs/platforms.md.
#>
[CmdletBinding()]
param(
    [string]$From = '',
    [string]$Python = '',
    [switch]$Uv,
    [switch]$Offline,
    [switch]$NoShell,
    [switch]$NoAgents,
    [switch]$DryRun
)

Set-StrictMode -Version 2
$ErrorActionPreference = 'Stop'

# `scripts/release` fills these in for the copy that it puts beside the wheels.
$RELEASE_URL = ''
$SIGNER_IDENTITY = ''
$SIGNER_ISSUER = ''
$FETCH_LIMIT_S = 600

$Data = Join-Path $env:LOCALAPPDATA 'cmesh'
$Versions = Join-Path $Data 'versions'
$Bin = Join-Path $Data 'bin'
$Link = Join-Path $Bin 'cmesh.cmd'
$Record = Join-Path $Data 'installed.json'

function Say([string]$Text) { Write-Host "install: $Text" }

function Stop-Install([string]$Problem, [string]$Hint) {
    throw "install: $Problem`nhint: $Hint"
}

function Find-Maker {
    $names = @('py', 'python', 'python3')
    if ($Python) { $names = @($Python) }
    $probe = 'import ensurepip, sys, venv; sys.exit(1) if sys.version_info < (3, 11) else print(sys.executable)'
    if (-not $Uv) {
        foreach ($name in $names) {
            if (-not (Get-Command $name -ErrorAction SilentlyContinue)) { continue }
            $found = & $name -I -c $probe 2>$null
            if ($LASTEXITCODE -eq 0) { return @{ Python = "$found"; Uv = '' } }
        }
    }
    $tool = Get-Command 'uv' -ErrorAction SilentlyContinue
    if ($tool) { return @{ Python = ''; Uv = $tool.Source } }
    Stop-Install 'neither Python from 3.11 on with venv nor uv is here' 'winget install Python.Python.3.13'
}

function Get-ReleaseFile([string]$Base, [string]$Name, [string]$Work) {
    $target = Join-Path $Work $Name
    if ($Base -match '^https://') {
        try {
            Invoke-WebRequest -UseBasicParsing -TimeoutSec $FETCH_LIMIT_S -Uri "$Base/$Name" -OutFile $target
        } catch {
            Stop-Install "``$Base/$Name`` could not be fetched; nothing was changed" 'check the network and HTTPS_PROXY, or copy the release here: install.ps1 -From FOLDER'
        }
    } elseif ($Base -match '^http://') {
        Stop-Install "``$Base`` is not an https address" 'install.ps1 -From https://...'
    } else {
        $source = Join-Path $Base $Name
        if (-not (Test-Path -LiteralPath $source)) { Stop-Install "``$source`` is not there" 'install.ps1 -From FOLDER' }
        Copy-Item -LiteralPath $source -Destination $target
    }
    return $target
}

function Read-Sums([string]$Path) {
    $sums = @{}
    foreach ($line in Get-Content -LiteralPath $Path) {
        if ($line -cmatch '^([0-9a-f]{64}) [ *]([A-Za-z0-9][A-Za-z0-9._+-]*)$') { $sums[$Matches[2]] = $Matches[1] }
    }
    return $sums
}

function Get-Checked([string]$Base, [string]$Name, [hashtable]$Sums, [string]$Work) {
    $target = Get-ReleaseFile $Base $Name $Work
    $found = (Get-FileHash -Algorithm SHA256 -LiteralPath $target).Hash.ToLowerInvariant()
    if ($found -cne $Sums[$Name]) {
        Stop-Install "``$Name`` is not what SHA256SUMS says: cut off or changed; nothing was changed" 'fetch the release again; if it happens again, tell who gave it to you'
    }
    return $target
}

# One signature over SHA256SUMS speaks for every file that it lists.
function Test-Signature([string]$Base, [string]$Work) {
    try {
        $bundle = Get-ReleaseFile $Base 'SHA256SUMS.sigstore.json' $Work
    } catch {
        Say 'note: no signature came with this release; only its checksums are checked'
        return
    }
    $verifier = Get-Command 'cosign' -ErrorAction SilentlyContinue
    if (-not $SIGNER_IDENTITY) { Say 'note: this script names no signer, so the signature is not checked'; return }
    if (-not $verifier) { Say 'note: cosign is not here, so the signature is not checked'; return }
    & $verifier.Source verify-blob --bundle $bundle --certificate-identity $SIGNER_IDENTITY --certificate-oidc-issuer $SIGNER_ISSUER (Join-Path $Work 'SHA256SUMS')
    if ($LASTEXITCODE -ne 0) {
        Stop-Install "the signature of SHA256SUMS is not that of $SIGNER_IDENTITY; nothing was changed" 'do not use this release; tell who gave it to you'
    }
    Say "the signature of $SIGNER_IDENTITY is good, says cosign"
}

function Invoke-Checked([string]$Problem, [string]$Program, [string[]]$Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { Stop-Install "$Problem; nothing was changed" 'see the lines above' }
}

function New-Environment([hashtable]$Maker, [string]$Folder, [string]$Wheel, [string]$Lock, [string]$Base) {
    $program = Join-Path $Folder 'Scripts\python.exe'
    if ($Maker.Uv) {
        Invoke-Checked 'the environment could not be made' $Maker.Uv @('venv', '--quiet', '--no-cache', '--python', '>=3.11', $Folder)
        $installer = $Maker.Uv
        $install = @('pip', 'install', '--no-cache', '--python', $program, '--only-binary', ':all:')
    } else {
        Invoke-Checked 'the environment could not be made' $Maker.Python @('-I', '-m', 'venv', $Folder)
        $installer = $program
        $install = @('-I', '-m', 'pip', 'install', '--no-cache-dir', '--no-input', '--only-binary', ':all:')
    }
    if ($Offline) { $install += @('--no-index', '--find-links', $Base) }
    $problem = 'the packages that cmesh needs could not be installed'
    if ($Lock) {
        Invoke-Checked $problem $installer ($install + @('--require-hashes', '-r', $Lock))
        Invoke-Checked $problem $installer ($install + @('--no-deps', $Wheel))
    } else {
        Invoke-Checked $problem $installer ($install + @($Wheel))
    }
    Invoke-Checked 'this version does not start here' (Join-Path $Folder 'Scripts\cmesh.exe') @('version')
}

# The link is a script of one line; the one before is kept until the new version runs.
function Switch-Version([string]$Folder, [string]$Work) {
    $before = Join-Path $Work 'cmesh.cmd'
    if (Test-Path -LiteralPath $Link) { Copy-Item -LiteralPath $Link -Destination $before }
    $program = Join-Path $Folder 'Scripts\cmesh.exe'
    try {
        New-Item -ItemType Directory -Force -Path $Bin | Out-Null
        Set-Content -LiteralPath $Link -Encoding ascii -Value "@`"$program`" %*"
        & $program status | Out-Null
        if ($LASTEXITCODE -eq 0) { Invoke-Checked 'the daemon could not be replaced' $program @('up', '--replace') }
    } catch {
        if (Test-Path -LiteralPath $before) { Copy-Item -LiteralPath $before -Destination $Link -Force } else { Remove-Item -LiteralPath $Link -Force -ErrorAction SilentlyContinue }
        throw
    }
}

function Add-ToPath {
    $path = [Environment]::GetEnvironmentVariable('Path', 'User')
    if (($path -split ';') -contains $Bin) { return $false }
    [Environment]::SetEnvironmentVariable('Path', "$path;$Bin".TrimStart(';'), 'User')
    Say "added $Bin to PATH; open a new terminal"
    return $true
}

# Entries of others, and those of earlier runs, stay.
function Write-Record([string]$Version, [object[]]$Entries) {
    $kept = @()
    if (Test-Path -LiteralPath $Record) {
        $old = Get-Content -Raw -LiteralPath $Record | ConvertFrom-Json
        $new = @($Entries | ForEach-Object { "$($_.kind)|$($_.path)" })
        $kept = @($old.entries | Where-Object { $new -notcontains "$($_.kind)|$($_.path)" })
    }
    $text = @{ version = 1; cmesh = $Version; entries = @($kept + $Entries) } | ConvertTo-Json -Depth 8
    Set-Content -LiteralPath "$Record.new" -Encoding utf8 -Value $text
    Move-Item -Force -LiteralPath "$Record.new" -Destination $Record
}

function Install-Cmesh([string]$Work) {
    $place = $From
    if (-not $place -and (Test-Path -LiteralPath (Join-Path $PSScriptRoot 'SHA256SUMS'))) { $place = $PSScriptRoot }
    if (-not $place) { $place = $RELEASE_URL }
    if (-not $place) { Stop-Install 'there is no release beside this script' 'install.ps1 -From FOLDER' }
    if ($env:PROCESSOR_ARCHITECTURE -ne 'AMD64') { Stop-Install "there is no wheel for the processor ``$env:PROCESSOR_ARCHITECTURE``" 'see docs/platforms.md' }
    $maker = Find-Maker
    $base = $place.TrimEnd('/', '\')
    $sums = Read-Sums (Get-ReleaseFile $base 'SHA256SUMS' $Work)
    Test-Signature $base $Work
    $wheels = @($sums.Keys | Where-Object { $_ -match '^cmesh-[^-]+-[^-]+-abi3-win_amd64\.whl$' })
    if ($wheels.Count -ne 1) { Stop-Install "the release has $($wheels.Count) wheels for Windows on AMD64" 'see docs/platforms.md' }
    $name = $wheels[0]
    $version = $name.Split('-')[1]
    $lockName = "cmesh-$version-lock.txt"
    $folder = Join-Path $Versions "$version-$($sums[$name].Substring(0, 12))"
    if ($DryRun) {
        Say "would make $folder, $Link and $Record, put $Bin on PATH, and register cmesh with each agent found"
        return
    }
    $wheel = Get-Checked $base $name $sums $Work
    $lock = ''
    if ($sums.ContainsKey($lockName)) { $lock = Get-Checked $base $lockName $sums $Work }
    $ready = Join-Path $folder 'ready'
    if (-not (Test-Path -LiteralPath $ready)) {
        if (Test-Path -LiteralPath $folder) { Remove-Item -Recurse -Force -LiteralPath $folder }
        try {
            New-Environment $maker $folder $wheel $lock $base
            Set-Content -LiteralPath $ready -Encoding ascii -Value $sums[$name]
            Switch-Version $folder $Work
        } catch {
            Remove-Item -Recurse -Force -LiteralPath $folder -ErrorAction SilentlyContinue
            throw
        }
    } else {
        Switch-Version $folder $Work
    }
    $entries = @(
        @{ kind = 'directory'; path = $folder; tree = $true; cmesh = $version; sha256 = $sums[$name] },
        @{ kind = 'file'; path = $Link; sha256 = (Get-FileHash -Algorithm SHA256 -LiteralPath $Link).Hash.ToLowerInvariant() }
    )
    if (-not $NoShell -and (Add-ToPath)) { $entries += @{ kind = 'user-path'; path = $Bin } }
    Write-Record $version $entries
    if (-not $NoAgents) { & $Link mcp add --all }
    Say "cmesh $version is installed"
}

$work = Join-Path ([IO.Path]::GetTempPath()) ([IO.Path]::GetRandomFileName())
New-Item -ItemType Directory -Path $work | Out-Null
try {
    Install-Cmesh $work
} finally {
    Remove-Item -Recurse -Force -LiteralPath $work -ErrorAction SilentlyContinue
}
