"""A stand-in for the packages `smac` and `smacv2` and for StarCraft II, faithful in their interface, not in the game.

Constructor arguments, methods, return values, keys of `info`, sizes, when the game is launched and when only restarted,
what is raised without the game, the seed, the flag of the time limit, and the odd end after a broken connection: all as
in oxwhirl/smac (commit d6aab33) and oxwhirl/smacv2 (577ab5a). The fight itself is a few lines on a line: whoever is in
range may be shot.
"""

import os
import random
from pathlib import Path

import numpy as np

LAUNCHED = []  # seeds of the games launched in this process

# (agents, enemies, actions, observation, state, limit) as the package smac computed them, without the game
MEASURED = {
    "3m": (3, 3, 9, 30, 48, 60),
    "8m": (8, 8, 14, 80, 168, 120),
    "25m": (25, 25, 31, 250, 950, 150),
    "5m_vs_6m": (5, 6, 12, 55, 98, 70),
    "8m_vs_9m": (8, 9, 15, 85, 179, 120),
    "10m_vs_11m": (10, 11, 17, 105, 243, 150),
    "27m_vs_30m": (27, 30, 36, 285, 1170, 180),
    "MMM": (10, 10, 16, 160, 290, 150),
    "MMM2": (10, 12, 18, 176, 322, 180),
    "2s3z": (5, 5, 11, 80, 120, 120),
    "3s5z": (8, 8, 14, 128, 216, 150),
    "3s5z_vs_3s6z": (8, 9, 15, 136, 230, 170),
    "3s_vs_3z": (3, 3, 9, 36, 54, 150),
    "3s_vs_4z": (3, 4, 10, 42, 61, 200),
    "3s_vs_5z": (3, 5, 11, 48, 68, 250),
    "1c3s5z": (9, 9, 15, 162, 270, 180),
    "2m_vs_1z": (2, 1, 7, 16, 26, 150),
    "corridor": (6, 24, 30, 156, 282, 400),
    "6h_vs_8z": (6, 8, 14, 78, 140, 150),
    "2s_vs_1sc": (2, 1, 7, 17, 27, 300),
    "so_many_baneling": (7, 32, 38, 202, 397, 100),
    "bane_vs_bane": (24, 24, 30, 336, 984, 200),
    "2c_vs_64zg": (2, 64, 70, 332, 342, 400),
}
MEASURED_V2 = {
    "terran_5_vs_5": (5, 5, 11, 82, 120, 200),
    "terran_10_vs_10": (10, 10, 16, 162, 290, 200),
    "terran_10_vs_11": (10, 11, 17, 170, 306, 200),
    "terran_20_vs_20": (20, 20, 26, 322, 780, 200),
    "terran_20_vs_23": (20, 23, 29, 346, 858, 200),
    "zerg_5_vs_5": (5, 5, 11, 82, 120, 200),
    "zerg_10_vs_10": (10, 10, 16, 162, 290, 200),
    "zerg_10_vs_11": (10, 11, 17, 170, 306, 200),
    "zerg_20_vs_20": (20, 20, 26, 322, 780, 200),
    "zerg_20_vs_23": (20, 23, 29, 346, 858, 200),
    "protoss_5_vs_5": (5, 5, 11, 92, 130, 200),
    "protoss_10_vs_10": (10, 10, 16, 182, 310, 200),
    "protoss_10_vs_11": (10, 11, 17, 191, 327, 200),
    "protoss_20_vs_20": (20, 20, 26, 362, 820, 200),
    "protoss_20_vs_23": (20, 23, 29, 389, 901, 200),
}

REGISTRY = {name: {"limit": sizes[5]} for name, sizes in MEASURED.items()}


class SMACMap:
    """The base class of maps; the real one is pysc2's."""

    filename = ""


class SC2LaunchError(Exception):
    """As `pysc2.lib.sc_process.SC2LaunchError`: no OSError."""


class CannotResetException(Exception):
    pass


class StarCraft2Env:
    """The class of both packages. `breaks` is ours: the step at which the connection to the game breaks."""

    own_limit = None
    breaks = None
    map_files = None

    def __init__(
        self,
        map_name="8m",
        step_mul=8,
        difficulty="7",
        game_version=None,
        seed=None,
        continuing_episode=False,
        obs_last_action=False,
        reward_sparse=False,
        reward_scale=True,
        reward_scale_rate=20,
        reward_win=200,
        reward_death_value=10,
    ):
        self.map_name = map_name
        sizes = MEASURED.get(map_name) or extra_sizes(map_name)  # KeyError: the package does not know the map
        self.take_sizes(sizes)
        if obs_last_action:
            self.obs_size += (self.n_agents - 1) * self.n_actions
        self.difficulty, self.game_version = difficulty, game_version
        self.continuing_episode, self.reward_sparse = continuing_episode, reward_sparse
        self.scale = (self.n_enemies * reward_death_value + reward_win) / reward_scale_rate if reward_scale else 1
        self.reward_win, self.reward_death_value = reward_win, reward_death_value
        self._seed = seed
        self._episode_count = self._episode_steps = 0
        self.battles_won = self.battles_game = self.timeouts = self.force_restarts = 0
        self._sc2_proc = None

    def take_sizes(self, sizes):
        self.n_agents, self.n_enemies, self.n_actions, self.obs_size, self.state_size, self.episode_limit = sizes

    def _launch(self):
        home = Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()
        versions = os.listdir(home / "Versions")  # FileNotFoundError
        if not versions:
            raise SC2LaunchError(f"No SC2 Versions found in: {home / 'Versions'}")
        if self.game_version and self.game_version not in ("4.10", "4.6.2"):
            raise ValueError(f"Unknown game version: {self.game_version}. Known versions: ['4.10', '4.6.2', 'latest']")
        file = self.map_files or self.file_name()
        if not (home / "Maps" / "SMAC_Maps" / f"{file}.SC2Map").exists():
            raise ValueError(f"Map 'SMAC_Maps/{file}.SC2Map' not found.")
        LAUNCHED.append(self._seed)
        self._sc2_proc = np.random.default_rng(self._seed)  # the game's own random numbers, which no restart renews

    def file_name(self):
        return MAPS[self.map_name].filename if self.map_name in MAPS else self.map_name

    def reset(self):
        self._episode_steps = 0
        if self._episode_count == 0:
            self._launch()
        self.begin()
        return self.get_obs(), self.get_state()

    def begin(self):
        draw = self._sc2_proc.random
        self.place = np.concatenate([draw(self.n_agents) * 4, 4 + draw(self.n_enemies) * 4])
        self.health = np.ones(self.n_agents + self.n_enemies)
        self.last_action = np.zeros((self.n_agents, self.n_actions))
        self.over = False

    def step(self, actions):
        assert not self.over, "the episode is over"
        chosen = [int(action) for action in actions]
        for agent, action in enumerate(chosen):
            available = self.get_avail_agent_actions(agent)
            assert available[action] == 1, f"Agent {agent} cannot perform action {action}"
        self.last_action = np.eye(self.n_actions)[np.array(chosen)]
        if self.breaks is not None and self._episode_steps + 1 == self.breaks:
            self.force_restarts += 1
            return 0, True, {}
        before = self.health.copy()
        n = self.n_agents
        for agent, action in enumerate(chosen):
            if action >= 6:
                self.health[n + action - 6] -= 0.1 + 0.1 * self._sc2_proc.random()
            self.place[agent] += {4: 0.5, 5: -0.5}.get(action, 0)
        for enemy in n + np.flatnonzero(self.health[n:] > 0):
            alive = np.flatnonzero(self.health[:n] > 0)
            if len(alive):
                target = alive[enemy % len(alive)]
                distance = self.place[enemy] - self.place[target]
                self.place[enemy] -= 0.3 * np.sign(distance)
                self.health[target] -= 0.08 if abs(distance) < 3 else 0
        self.health = self.health.clip(0)
        self.place[:n] = self.place[:n].clip(0, 8)
        self._episode_steps += 1

        fallen = int(((before[n:] > 0) & (self.health[n:] == 0)).sum())
        reward = 0 if self.reward_sparse else (before - self.health)[n:].sum() + fallen * self.reward_death_value
        info = {
            "battle_won": False,
            "dead_allies": int((self.health[:n] == 0).sum()),
            "dead_enemies": int((self.health[n:] == 0).sum()),
        }
        terminated = False
        if not self.health[n:].any() or not self.health[:n].any():
            terminated = True
            won = not self.health[n:].any()
            self.battles_game += 1
            self.battles_won += won
            info["battle_won"] = won
            if self.reward_sparse:
                reward = 1 if won else -1
            elif won:
                reward += self.reward_win
        elif self._episode_steps >= (self.own_limit or self.episode_limit):
            terminated = True
            if self.continuing_episode:
                info["episode_limit"] = True
            self.timeouts += 1
        if terminated:
            self._episode_count += 1
            self.over = True
        if not self.reward_sparse:
            reward /= self.scale
        return reward, terminated, info

    def get_obs(self):
        return [self.get_obs_agent(agent) for agent in range(self.n_agents)]

    def get_obs_agent(self, agent):
        obs = np.zeros(self.obs_size, np.float32)
        if self.health[agent] > 0:
            obs[0], obs[1], obs[2] = self.place[agent] / 8, self.health[agent], self._episode_steps
        return obs

    def get_state(self):
        state = np.zeros(self.state_size, np.float32)
        state[: len(self.health)] = self.health
        return state

    def get_avail_actions(self):
        return [self.get_avail_agent_actions(agent) for agent in range(self.n_agents)]

    def get_avail_agent_actions(self, agent):
        if self.health[agent] == 0:
            return [1] + [0] * (self.n_actions - 1)
        targets = (self.health[self.n_agents :] > 0) & (abs(self.place[self.n_agents :] - self.place[agent]) < 3)
        moves = [0, 0, int(self.place[agent] < 8), int(self.place[agent] > 0)]
        return [0, 1, *moves, *targets.astype(int).tolist()]

    def get_obs_size(self):
        return self.obs_size

    def get_state_size(self):
        return self.state_size

    def get_total_actions(self):
        return self.n_actions

    def seed(self):
        return self._seed

    def get_env_info(self):
        return {
            "state_shape": self.state_size,
            "obs_shape": self.obs_size,
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
            "agent_features": ["health", "energy/cooldown", "rel_x", "rel_y"],
            "enemy_features": ["health", "rel_x", "rel_y"],
        }

    def close(self):
        self._sc2_proc = None


MAPS = {}


def extra_sizes(name):
    """Sizes of a map that was added to the registry."""
    entry = REGISTRY[name]
    n, m, bits = entry["n_agents"], entry["n_enemies"], entry["unit_type_bits"]
    ally, enemy = (int(entry[race] == "P") for race in ("a_race", "b_race"))
    MAPS[name] = getattr(registry_module(), name)
    obs = 4 + m * (5 + enemy + bits) + (n - 1) * (5 + ally + bits) + 1 + ally + bits
    return n, m, 6 + m, obs, n * (4 + ally + bits) + m * (3 + enemy + bits) + n * (6 + m), entry["limit"]


def registry_module():
    import smac.env.starcraft2.maps.smac_maps as module

    return module


class Weighted:
    """`weighted_teams`: a generator of its own without a seed, and Python's shuffle."""

    def __init__(self, config):
        self.config, self.rng = config, np.random.default_rng()

    def generate(self):
        team = []
        while not team or all(member in self.config["exception_unit_types"] for member in team):
            weights = self.config["weights"]
            team = list(self.rng.choice(self.config["unit_types"], size=self.config["n_units"], p=weights))
            random.shuffle(team)
        return {"team_gen": {"ally_team": team, "enemy_team": list(team), "id": 0}}


class Uniform:
    def __init__(self, config):
        self.n_units, self.rng = config["n_units"], np.random.default_rng()

    def generate(self):
        return {"ally_start_positions": {"item": self.rng.uniform(size=(self.n_units, 2)), "id": 0}}


class SurroundedAndReflect:
    """Distributions inside a distribution."""

    def __init__(self, config):
        self.p_threshold, self.rng = config["p"], np.random.default_rng()
        self.reflect_distribution, self.surrounded_distribution = Uniform(config), Uniform(config)

    def generate(self):
        either = self.surrounded_distribution if self.rng.random() > self.p_threshold else self.reflect_distribution
        return either.generate()


class GeneratedEnv(StarCraft2Env):
    """`smacv2.env.starcraft2.starcraft2.StarCraft2Env`: takes what was drawn when an episode begins."""

    refuses = 0  # how often a position cannot be used, at the first reset

    def __init__(
        self, capability_config, map_name, obs_own_pos, use_unit_ranges, min_attack_range, conic_fov, **kwargs
    ):
        assert (obs_own_pos, use_unit_ranges, min_attack_range, conic_fov) == (True, True, 2, False)
        self.drawn = []
        race = map_name.removeprefix("10gen_")
        self.kind = f"{race}_{capability_config['n_units']}_vs_{capability_config['n_enemies']}"
        super().__init__("3m", **kwargs)
        self.map_files = "32x32_flat"
        self.take_sizes(MEASURED_V2[self.kind])
        self.scale = (self.n_enemies * self.reward_death_value + self.reward_win) / 20

    def reset(self, episode_config):
        if GeneratedEnv.refuses:
            GeneratedEnv.refuses -= 1
            raise CannotResetException
        self.drawn.append(episode_config)
        return super().reset()

    def begin(self):
        super().begin()
        self.place[: self.n_agents] = 4 * self.drawn[-1]["ally_start_positions"]["item"][:, 0]


class StarCraftCapabilityEnvWrapper:
    """`smacv2.env.starcraft2.wrapper`: writes into the config it is given, and forgets to return after a retry."""

    def __init__(self, **kwargs):
        self.distribution_config = kwargs["capability_config"]
        self.env_key_to_distribution_map = {}
        kinds = {"weighted_teams": Weighted, "surrounded_and_reflect": SurroundedAndReflect}
        for key, config in self.distribution_config.items():
            if key not in ("n_units", "n_enemies"):
                config |= {name: self.distribution_config[name] for name in ("n_units", "n_enemies")} | {"env_key": key}
                self.env_key_to_distribution_map[key] = kinds[config["dist_type"]](config)
        self.env = GeneratedEnv(**kwargs)

    def reset(self):
        try:
            config = {}
            for distribution in self.env_key_to_distribution_map.values():
                config = {**config, **distribution.generate()}
            return self.env.reset(config)
        except CannotResetException:
            self.reset()

    def __getattr__(self, name):
        return getattr(self.env, name)


def install(folder: Path) -> Path:
    """Write both packages, in name only, and pysc2 into `folder`; their classes are those of this module."""
    files = {
        "pysc2/__init__.py": "",
        "smac/__init__.py": "",
        "smac/env/__init__.py": "from fake_smac import StarCraft2Env\n",
        "smac/env/starcraft2/__init__.py": "",
        "smac/env/starcraft2/maps/__init__.py": "",
        "smac/env/starcraft2/maps/smac_maps.py": "from fake_smac import REGISTRY as map_param_registry, SMACMap\n",
        "smacv2/__init__.py": "",
        "smacv2/env/__init__.py": "",
        "smacv2/env/starcraft2/__init__.py": "",
        "smacv2/env/starcraft2/wrapper.py": "from fake_smac import StarCraftCapabilityEnvWrapper\n",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def install_game(folder: Path, maps: list[str]) -> Path:
    """Make what looks like an installed game with these map files; the folder for SC2PATH."""
    program = folder / "Versions" / "Base75689" / "SC2_x64"
    program.parent.mkdir(parents=True)
    program.touch()
    (folder / "Maps" / "SMAC_Maps").mkdir(parents=True)
    for name in maps:
        (folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()
    return folder
